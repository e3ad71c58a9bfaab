from harveyseg.prediction.api import Prediction as Prediction
from harveyseg.prediction.api import Predictor as Predictor
from harveyseg.workspace import Data as Data
from harveyseg.workspace import Evaluation as Evaluation
from harveyseg.workspace import Workspace as Workspace
