from harveyseg.prediction.api import Prediction as Prediction
from harveyseg.prediction.api import Predictor as Predictor
